"""What every engine shares: draws, logging, weight average, validation, sharding, compiling."""
