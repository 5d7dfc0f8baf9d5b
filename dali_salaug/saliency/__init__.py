"""Saliency maps of the live model, which is only observed."""
