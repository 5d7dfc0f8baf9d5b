"""Advice from one trained run: which family of augmentation its data wants, with the numbers that say so."""
