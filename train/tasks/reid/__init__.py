"""Re-identification: find the same person, or thing, in the images of other cameras (KeepAugment §4.4)."""
