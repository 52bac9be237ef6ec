"""The page of scores that --report writes."""
