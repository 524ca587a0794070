"""One file per figure: `run(fast)` measures, `plot(records)` draws, CLAIMS
says what is judged."""
