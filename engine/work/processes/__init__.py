"""What runs a sample's script. One protocol (`process.py`), and four ways: cold, warm, launched, as a batch job."""
