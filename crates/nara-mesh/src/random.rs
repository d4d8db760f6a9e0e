use std::cell::RefCell;

/// The number of bytes fetched at once: enough for some fifty nonces.
const FETCHED: usize = 512;

/// Fetched bytes that are not used yet.
struct Stock {
    bytes: [u8; FETCHED],
    left: usize,
}

thread_local! {
    static STOCK: RefCell<Stock> = const { RefCell::new(Stock { bytes: [0; FETCHED], left: 0 }) };
}

/// Returns fresh random bytes of the operating system. Each thread fetches some in advance, since fetching a few costs
/// as much as fetching many.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    STOCK.with_borrow_mut(Stock::take)
}

impl Stock {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        const { assert!(N <= FETCHED) }
        if self.left < N {
            getrandom::fill(&mut self.bytes).expect("the operating system gives random bytes");
            self.left = FETCHED;
        }
        let start = self.left - N;
        let mut taken = [0; N];
        taken.copy_from_slice(&self.bytes[start..self.left]);
        // Used bytes must not stay in memory.
        self.bytes[start..self.left].fill(0);
        self.left = start;
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_bytes_are_given_out_twice() {
        let sizes = 4 * FETCHED / 16;
        let many: HashSet<[u8; 16]> = (0..sizes).map(|_| random()).collect();
        assert_eq!(many.len(), sizes);
        assert!(!many.contains(&[0; 16]));
    }

    #[test]
    fn sizes_that_do_not_divide_the_stock_are_served_whole() {
        let many: HashSet<[u8; 100]> = (0..50).map(|_| random()).collect();
        assert_eq!(many.len(), 50);
        assert!(
            many.iter()
                .all(|bytes| bytes.iter().filter(|byte| **byte == 0).count() < 50)
        );
    }

    #[test]
    fn threads_do_not_share_a_stock() {
        let first: [u8; 32] = random();
        let other = std::thread::spawn(random::<32>).join().unwrap();
        assert_ne!(first, other);
    }
}
