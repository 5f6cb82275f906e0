"""The tables: a row for every op and every kernel, and what they are checked against."""
