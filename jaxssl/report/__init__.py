"""What a run did, to look at: one self-contained HTML file, and a table for the terminal."""

from jaxssl.report.page import write_comparison, write_report
from jaxssl.report.table import summary_table

__all__ = ["summary_table", "write_comparison", "write_report"]
