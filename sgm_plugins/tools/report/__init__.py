"""The report of a run: one HTML file that shows how it went, alive while it trains.

`record.py` is what a run keeps about itself (`run.json`), `curves.py` and `pictures.py` read its metrics and grids,
`page.py` makes the page (`page.css`, `page.js`), `reporter.py` is the callback that does so while a run trains.
"""
