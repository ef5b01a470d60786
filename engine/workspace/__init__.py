"""The files that mrun keeps in a study's workspace: the plan, journals, packed output, what a run began with."""
