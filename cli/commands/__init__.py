"""One module for each verb; its `command` is what click runs."""
