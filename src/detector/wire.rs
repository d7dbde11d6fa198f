//! Primitive values as bytes, little-endian: what the state codec's rows are made of. Reading never panics.

use crate::time::Ticks;

/// Why bytes could not be read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes end inside a value.
    #[error("the section ends inside a value")]
    Short,
    /// A value that the writer never writes.
    #[error("a value is out of range: {0}")]
    Invalid(&'static str),
}

/// Writes primitive values.
pub(crate) trait Put {
    fn put_u8(&mut self, v: u8);
    fn put_u32(&mut self, v: u32);
    fn put_u64(&mut self, v: u64);
    fn put_ticks(&mut self, v: Ticks);
    fn put_bytes(&mut self, v: &[u8]);
    fn put_str(&mut self, v: &str);
}

impl Put for Vec<u8> {
    #[inline]
    fn put_u8(&mut self, v: u8) {
        self.push(v);
    }
    #[inline]
    fn put_u32(&mut self, v: u32) {
        self.extend_from_slice(&v.to_le_bytes());
    }
    #[inline]
    fn put_u64(&mut self, v: u64) {
        self.extend_from_slice(&v.to_le_bytes());
    }
    #[inline]
    fn put_ticks(&mut self, v: Ticks) {
        self.put_u64(v.0 as u64);
    }
    #[inline]
    fn put_bytes(&mut self, v: &[u8]) {
        self.put_u32(v.len() as u32);
        self.extend_from_slice(v);
    }
    #[inline]
    fn put_str(&mut self, v: &str) {
        self.put_bytes(v.as_bytes());
    }
}

/// Reads what [`Put`] wrote.
pub(crate) struct Get<'a>(pub(crate) &'a [u8]);

impl<'a> Get<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[inline]
    fn take(&mut self, n: usize) -> Result<&'a [u8], WireError> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(WireError::Short)?;
        self.0 = tail;
        Ok(head)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(WireError::Short)?;
        self.0 = tail;
        Ok(*head)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(|[b]| b)
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_le_bytes)
    }

    #[inline]
    pub(crate) fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    #[inline]
    pub(crate) fn ticks(&mut self) -> Result<Ticks, WireError> {
        self.u64().map(|v| Ticks(v as i64))
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let n = self.u32()? as usize;
        self.take(n)
    }

    pub(crate) fn str(&mut self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| WireError::Invalid("text is not UTF-8"))
    }

    /// A count of rows of at least `row` bytes each: refused when the rest can't hold them, so a damaged count allocates nothing.
    pub(crate) fn count(&mut self, row: usize) -> Result<usize, WireError> {
        let n = self.u32()? as usize;
        if n.saturating_mul(row) > self.0.len() { Err(WireError::Short) } else { Ok(n) }
    }
}
