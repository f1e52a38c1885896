"""SimBA: synthetic, controllable bias in brain MRI."""
