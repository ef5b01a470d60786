"""The worker: claim, run, beat, settle, stop. The only room that starts step processes."""
