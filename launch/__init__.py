"""Command-line programs: prepare, train, evaluate, report, and the demo that chains them."""
