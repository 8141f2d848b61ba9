"""The only room that draws: figures, tables and pages. matplotlib draws files, plotly the figures that move."""
