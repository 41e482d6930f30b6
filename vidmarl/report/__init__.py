"""What a person sees of a result: plotly figures (`figures`) and a report in one HTML file (`html`)."""
