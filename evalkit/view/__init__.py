"""Terminal table, exports, charts and reports: pure functions of a Comparison."""
