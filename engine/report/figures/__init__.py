"""The figures of a report: each module draws one kind; ``style`` holds the look that all share."""
