"""The table of samples: opened, converted, read row by row; and the directories of samples."""
