"""The saliency-consistency loss, and the second derivatives that it needs."""
