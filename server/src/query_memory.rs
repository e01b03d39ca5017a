//! Memory of threads that answer queries.
//!
//! They share one arena of the allocator, which keeps what queries give back for a minute: alerts and dashboards ask again
//! until then, and each page that is new to the process costs more than a microsecond. The rest of the process gives back
//! after a second (`main.rs`), which bounds what ingestion leaves behind; pieces of eight megabytes or more go back at once
//! here, too.

use std::ffi::{CStr, CString};
use std::mem::size_of;
use std::ptr::{from_mut, null_mut};
use std::sync::LazyLock;
use std::time::Duration;

/// How long the arena keeps what nobody uses.
const KEPT: Duration = Duration::from_secs(60);

/// The arena, and the name of what makes it give back what was kept for too long. `None` if there is none to be had:
/// queries work, but slower.
static ARENA: LazyLock<Option<(u32, CString)>> = LazyLock::new(|| {
    let mut arena: u32 = 0;
    // SAFETY: `arenas.create` returns an `unsigned`.
    unsafe { read(c"arenas.create", &mut arena) }.then_some(())?;
    let kept_ms = isize::try_from(KEPT.as_millis()).ok()?;
    let name = CString::new(format!("arena.{arena}.dirty_decay_ms")).ok()?;
    // SAFETY: this one takes an `ssize_t`.
    unsafe { write(&name, kept_ms) }.then_some(())?;
    Some((arena, CString::new(format!("arena.{arena}.decay")).ok()?))
});

/// Lets the calling thread allocate from the arena.
pub fn share() {
    if let Some((arena, _)) = &*ARENA {
        // SAFETY: `thread.arena` takes an `unsigned`.
        unsafe { write(c"thread.arena", *arena) };
    }
}

/// Gives back what was kept for too long, from time to time: the allocator itself looks only when it is asked for memory.
pub async fn give_back() {
    loop {
        tokio::time::sleep(KEPT / 2).await;
        // What a large query left takes the system a while. That a thread cannot be had means that the server ends.
        let _ = tokio::task::spawn_blocking(decay).await;
    }
}

fn decay() {
    if let Some((_, name)) = &*ARENA {
        // SAFETY: `arena.<i>.decay` takes and returns nothing.
        unsafe { tikv_jemalloc_sys::mallctl(name.as_ptr(), null_mut(), null_mut(), null_mut(), 0) };
    }
}

/// Whether the allocator answered.
///
/// # Safety
/// What is asked for must have the type `T`.
unsafe fn read<T>(name: &CStr, value: &mut T) -> bool {
    let mut size = size_of::<T>();
    // SAFETY: the name ends with a zero, value and size live until the call returns, and the caller vouches for the type.
    unsafe {
        tikv_jemalloc_sys::mallctl(name.as_ptr(), from_mut(value).cast(), &raw mut size, null_mut(), 0) == 0
    }
}

/// Whether the allocator took it.
///
/// # Safety
/// What is set must have the type `T`.
unsafe fn write<T>(name: &CStr, mut value: T) -> bool {
    let value = (&raw mut value).cast();
    // SAFETY: the name ends with a zero, the value lives until the call returns, and the caller vouches for the type.
    unsafe { tikv_jemalloc_sys::mallctl(name.as_ptr(), null_mut(), null_mut(), value, size_of::<T>()) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_share_have_the_arena_and_it_keeps() {
        let (arena, _) = ARENA.as_ref().expect("the allocator gives arenas");
        let own = || {
            let mut own: u32 = 0;
            // SAFETY: `thread.arena` returns an `unsigned`.
            assert!(unsafe { read(c"thread.arena", &mut own) });
            own
        };
        let sharing = move || {
            share();
            own()
        };
        let [one, other] = [(); 2].map(|()| std::thread::spawn(sharing).join().unwrap());
        assert_eq!((one, other), (*arena, *arena));
        assert_ne!(std::thread::spawn(own).join().unwrap(), *arena);
        let mut kept_ms: isize = 0;
        let name = CString::new(format!("arena.{arena}.dirty_decay_ms")).unwrap();
        // SAFETY: this one returns an `ssize_t`.
        assert!(unsafe { read(&name, &mut kept_ms) });
        assert_eq!(kept_ms, 60_000);
    }
}
