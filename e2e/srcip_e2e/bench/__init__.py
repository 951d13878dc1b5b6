"""The benchmark: srcip, what it is compared with, and no relay at all, in one run, in rounds, as ratios."""
