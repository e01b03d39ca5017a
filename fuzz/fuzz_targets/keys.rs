//! Keys and index records: whatever is on disk, reading it is an answer or an error.
#![no_main]

use chronolith_storage::block::header::BlockHeader;
use chronolith_storage::index::postings::Postings;
use chronolith_storage::kv::keys::{BlockId, key, kind_range, split};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some((block, kind, rest)) = split(data) {
        assert_eq!(key(block, kind, rest), data);
        let (from, to) = kind_range(block, kind);
        assert!(from.as_slice() <= data && data < to.as_slice());
    }
    let Some((&n, bytes)) = data.split_first() else { return };
    let n_series = u32::from(n) << (n % 24);
    if let Ok(postings) = Postings::decode(bytes, n_series) {
        let ranks: Vec<u32> = postings.iter().take(1 << 16).collect();
        assert!(ranks.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(ranks.iter().all(|&rank| rank < n_series));
    }
    let _ = BlockHeader::decode(BlockId(7), data);
});
