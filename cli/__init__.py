"""Words to calls, records to text. The only room that prints."""
