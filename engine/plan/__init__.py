"""The plan: what a study is once it is ready to be stored and run."""
