//! `backtest --report`: its numbers are those of separate backtests, and its page can be looked at by anybody, whatever the input.

// A test says what is wrong by panicking.
#![allow(clippy::unwrap_used, clippy::panic)]

mod report {
    mod bounds;
    mod kit;
    mod look;
    mod numbers;
}
