"""What the mask, gender and age tasks share; it knows none of them."""

import os

# Importing albumentations would otherwise ask the network for a newer version.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
