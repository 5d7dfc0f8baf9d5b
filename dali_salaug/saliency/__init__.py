"""Saliency maps of the live model, which they only observe."""
