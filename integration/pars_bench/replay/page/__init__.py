"""A replay's page, made from report.json and requests.parquet alone."""

from __future__ import annotations

from pars_bench.replay.page.page import write_page as write_page
