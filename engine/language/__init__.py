"""What a `$(NAME)` of a spec means, and where a study lives."""
