"""Many small files: what one costs, what many functions do with one table, and what ten thousand leave behind."""
