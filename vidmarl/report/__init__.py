"""What a person sees of a result: plotly figures (`figures`) and a report in one HTML file
(`html`)."""

from vidmarl.report.html import write_report

__all__ = ["write_report"]
