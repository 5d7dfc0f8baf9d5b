"""The augmentation methods, one file each."""
