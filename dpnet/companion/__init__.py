"""The paper beside its runs: its tables as declarations, and everything that makes, keeps and shows them."""
