"""Allocations on demand: batch jobs with workers in them, as long as there is work that fits them."""
