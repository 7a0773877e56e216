"""Training: data, the loop, and one file per trained method."""
