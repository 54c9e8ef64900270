"""`sgm train --dry-run`: a few measured steps."""
