//! Records of the caller's size in the caller's arrays.
//!
//! A record grows at its end only. A caller of an older header gives a smaller size and gets the part that it knows; one of
//! a newer header gives a larger, and what this library does not know of it becomes 0.

use super::status::{Failure, VFP_MORE, VFP_OK, vfp_status};
use std::marker::PhantomData;

/// A record that C sees.
///
/// # Safety
/// `repr(C)`, without padding (checked beside each), and all bytes 0 is a value of it.
pub(super) unsafe trait Record: Copy {
    /// The smallest record that any header has had; a smaller size is a mistake, such as that of a pointer.
    const LEAST: usize;
}

/// The caller's array, filled from its beginning.
pub(super) struct Slots<T> {
    begin: *mut u8,
    size: usize,
    capacity: usize,
    count: usize,
    records: PhantomData<T>,
}

impl<T: Record> Slots<T> {
    /// Takes an array of records from the arguments `size`, `capacity` and the one of that name. NULL is an array of 0.
    ///
    /// # Safety
    /// `records` is NULL, or `capacity * size` bytes from it may be written for as long as this is used.
    pub(super) unsafe fn new(
        size: usize,
        capacity: usize,
        records: *mut T,
        name: &'static str,
    ) -> Result<Self, Failure> {
        // SAFETY: this function's contract is the other's.
        unsafe { Self::counted(size, ("capacity", capacity), records, name) }
    }

    /// The same where the argument that counts the records has another name.
    ///
    /// # Safety
    /// `records` is NULL, or as many times `size` bytes from it may be written for as long as this is used.
    pub(super) unsafe fn counted(
        size: usize,
        (counter, capacity): (&'static str, usize),
        records: *mut T,
        name: &'static str,
    ) -> Result<Self, Failure> {
        check_size("size", size, T::LEAST)?;
        if capacity > 0 && records.is_null() {
            return Err(Failure::Argument(name, "is NULL, but there is to be something in it"));
        }
        if capacity.checked_mul(size).is_none_or(|bytes| isize::try_from(bytes).is_err()) {
            return Err(Failure::Argument(counter, "is more than fits into memory"));
        }
        Ok(Self { begin: records.cast(), size, capacity, count: 0, records: PhantomData })
    }

    /// Takes one record, whose size is the argument of the name `sizer`.
    ///
    /// # Safety
    /// `record` is NULL, or `size` bytes from it may be written for as long as this is used.
    pub(super) unsafe fn one(
        (sizer, size): (&'static str, usize),
        record: *mut T,
        name: &'static str,
    ) -> Result<Self, Failure> {
        check_size(sizer, size, T::LEAST)?;
        given(record, name)?;
        Ok(Self { begin: record.cast(), size, capacity: 1, count: 0, records: PhantomData })
    }

    /// Writes the next record if there is room for it, and counts it all the same.
    pub(super) fn push(&mut self, record: &T) {
        if self.count < self.capacity {
            let known = self.size.min(size_of::<T>());
            // SAFETY: count is below capacity, so this slot lies within the bytes that `new` was promised.
            let slot = unsafe { self.begin.add(self.count * self.size) };
            // SAFETY: `known` bytes are within the slot and within the record, which are different memory.
            unsafe { std::ptr::copy_nonoverlapping(std::ptr::from_ref(record).cast(), slot, known) };
            // SAFETY: the rest of the slot's `size` bytes.
            unsafe { slot.add(known).write_bytes(0, self.size - known) };
        }
        self.count += 1;
    }

    /// Tells how many records there are.
    ///
    /// # Safety
    /// `out_count` may be written; [`given`] has looked at it.
    pub(super) unsafe fn finish(&self, out_count: *mut usize) -> vfp_status {
        // SAFETY: this function's contract.
        unsafe { out_count.write(self.count) };
        if self.count > self.capacity { VFP_MORE } else { VFP_OK }
    }
}

/// Looks at a place for a number before work is done for it.
pub(super) fn given<T>(out: *mut T, name: &'static str) -> Result<(), Failure> {
    if out.is_null() { Err(Failure::Argument(name, "is NULL")) } else { Ok(()) }
}

/// A record of more bytes than this was never meant: an argument in the wrong place, or memory that was not set.
const MOST: usize = 4096;

/// Looks at the size of a record before anything is read or written by it.
pub(super) fn check_size(name: &'static str, size: usize, least: usize) -> Result<(), Failure> {
    if (least..=MOST).contains(&size) {
        Ok(())
    } else {
        Err(Failure::Argument(name, "must be the sizeof of the record"))
    }
}

/// The caller's numbers, as many as the argument of the name `counter` says; NULL is none.
///
/// # Safety
/// `items` is NULL, or `count` of them can be read and do not change for as long as the result is used.
pub(super) unsafe fn items<'a, T>(
    items: *const T,
    name: &'static str,
    (counter, count): (&'static str, usize),
) -> Result<&'a [T], Failure> {
    if count == 0 {
        return Ok(&[]);
    }
    if items.is_null() {
        return Err(Failure::Argument(name, "is NULL, but there is to be something in it"));
    }
    if count.checked_mul(size_of::<T>()).is_none_or(|bytes| isize::try_from(bytes).is_err()) {
        return Err(Failure::Argument(counter, "is more than fits into memory"));
    }
    // SAFETY: not NULL, not larger than memory, and readable by this function's contract.
    Ok(unsafe { std::slice::from_raw_parts(items, count) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Pair {
        first: u32,
        second: u32,
    }

    // SAFETY: two numbers of one size, no padding.
    unsafe impl Record for Pair {
        const LEAST: usize = 4;
    }

    fn filled(size: usize, capacity: usize) -> (Vec<u8>, usize, vfp_status) {
        let mut bytes = vec![0xee; 24];
        // SAFETY: capacity * size is at most 24 in these tests.
        let mut slots =
            unsafe { Slots::<Pair>::new(size, capacity, bytes.as_mut_ptr().cast(), "pairs") }.ok().unwrap();
        slots.push(&Pair { first: 1, second: 2 });
        slots.push(&Pair { first: 3, second: 4 });
        let mut count = 0;
        // SAFETY: a number of our own.
        let status = unsafe { slots.finish(&raw mut count) };
        (bytes, count, status)
    }

    #[test]
    fn an_older_caller_gets_the_part_that_it_knows() {
        let (bytes, count, status) = filled(4, 2);
        assert_eq!((count, status), (2, VFP_OK));
        assert_eq!(bytes[..12], [1, 0, 0, 0, 3, 0, 0, 0, 0xee, 0xee, 0xee, 0xee]);
    }

    #[test]
    fn a_newer_caller_gets_zeros_for_what_we_do_not_know() {
        let (bytes, ..) = filled(12, 2);
        assert_eq!(bytes, [1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn what_does_not_fit_is_counted_and_not_written() {
        let (bytes, count, status) = filled(8, 1);
        assert_eq!((count, status), (2, VFP_MORE));
        assert_eq!(bytes[8..], [0xee; 16]);
    }

    #[test]
    fn sizes_and_capacities_that_make_no_sense_are_refused() {
        let mut pair = Pair { first: 0, second: 0 };
        let pointer = &raw mut pair;
        for (size, capacity, pointer) in [
            (0, 1, pointer),
            (3, 1, pointer),
            (8, 1, std::ptr::null_mut()),
            (8, usize::MAX, pointer),
            (usize::MAX, 1, pointer),
            (4097, 1, pointer),
            (8, usize::MAX / 8, pointer),
        ] {
            // SAFETY: refused before anything is written.
            let refused = unsafe { Slots::<Pair>::new(size, capacity, pointer, "pairs") };
            assert!(matches!(refused, Err(Failure::Argument(..))), "{size} {capacity}");
        }
    }
}
