"""Semi-supervised training: few labels, many unlabelled images."""
