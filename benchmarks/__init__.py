"""One file for each question. Each prints JSON; README.md says machine, versions and what the numbers do not show."""
