//! Placeholder until bombs are written.
