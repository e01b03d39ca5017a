//! Asking for memory before it is needed.

/// Has the processor load the cache line of the first byte of `value`, without waiting for it. Does nothing where it
/// is not known how.
#[inline(always)]
pub fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint reads nothing as far as the program can tell, wherever it points; SSE is there on all
        // processors of this architecture.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
