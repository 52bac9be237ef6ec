"""The page that --report writes."""

REPORT = "report.html"  # in the folder that --report names
