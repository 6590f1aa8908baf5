//! Writes records of the caller's size into the caller's arrays.
//!
//! A record only grows at its end. A caller with an older header passes a smaller size and receives the fields that it
//! knows. A caller with a newer header passes a larger size; fields that this library does not know are set to 0.

use super::status::{Failure, VFP_OK, VFP_TRUNCATED, vfp_status};
use std::marker::PhantomData;

/// A record of the C ABI.
///
/// # Safety
/// The type is `repr(C)` without padding (asserted next to each type), and all bytes 0 are a
/// valid value.
pub(super) unsafe trait Record: Copy {
    /// Sizes of the record in the headers of earlier releases, if they differ from the present
    /// one.
    const EARLIER_SIZES: &'static [usize] = &[];
}

/// The caller's array, filled from the start.
pub(super) struct Slots<T> {
    begin: *mut u8,
    size: usize,
    capacity: usize,
    count: usize,
    records: PhantomData<T>,
}

impl<T: Record> Slots<T> {
    /// Checks the arguments `size`, `capacity` and the array argument `name`. NULL is an array of
    /// capacity 0.
    ///
    /// # Safety
    /// `records` is NULL, or `capacity * size` bytes from it are writable while the slots are in
    /// use.
    pub(super) unsafe fn new(
        size: usize,
        capacity: usize,
        records: *mut T,
        name: &'static str,
    ) -> Result<Self, Failure> {
        // SAFETY: both functions have the same contract.
        unsafe { Self::counted(size, ("capacity", capacity), records, name) }
    }

    /// Does the same for a call with the record count in the argument `counter`.
    ///
    /// # Safety
    /// `records` is NULL, or `capacity * size` bytes from it are writable while the slots are in
    /// use.
    pub(super) unsafe fn counted(
        size: usize,
        (counter, capacity): (&'static str, usize),
        records: *mut T,
        name: &'static str,
    ) -> Result<Self, Failure> {
        check_not_swapped::<T>(size, capacity)?;
        check_size::<T>("size", size)?;
        if capacity > 0 && records.is_null() {
            return Err(Failure::NullArray(name, counter));
        }
        if capacity.checked_mul(size).is_none_or(|bytes| isize::try_from(bytes).is_err()) {
            return Err(Failure::Argument(counter, "exceeds the address space"));
        }
        Ok(Self { begin: records.cast(), size, capacity, count: 0, records: PhantomData })
    }

    /// Checks a single record `name` with its size in the argument `sizer`.
    ///
    /// # Safety
    /// `record` is NULL, or `size` bytes from it are writable while the slots are in use.
    pub(super) unsafe fn one(
        (sizer, size): (&'static str, usize),
        record: *mut T,
        name: &'static str,
    ) -> Result<Self, Failure> {
        check_size::<T>(sizer, size)?;
        require(record, name)?;
        Ok(Self { begin: record.cast(), size, capacity: 1, count: 0, records: PhantomData })
    }

    /// Writes the next record if it fits, and counts it in either case.
    pub(super) fn push(&mut self, record: &T) {
        if self.count < self.capacity {
            let known = self.size.min(size_of::<T>());
            // SAFETY: count is below capacity, so the slot lies within the bytes of the contract of `new`.
            let slot = unsafe { self.begin.add(self.count * self.size) };
            // SAFETY: `known` bytes lie within the slot and within the record, which do not overlap.
            unsafe { std::ptr::copy_nonoverlapping(std::ptr::from_ref(record).cast(), slot, known) };
            // SAFETY: the remaining bytes of the slot.
            unsafe { slot.add(known).write_bytes(0, self.size - known) };
        }
        self.count += 1;
    }

    /// Writes the number of records to `out_count`; returns VFP_TRUNCATED if the array was too
    /// small for them.
    ///
    /// # Safety
    /// `out_count` is writable; [`require`] has checked it.
    pub(super) unsafe fn finish(&self, out_count: *mut usize) -> vfp_status {
        // SAFETY: this function's contract.
        unsafe { out_count.write(self.count) };
        if self.count > self.capacity { VFP_TRUNCATED } else { VFP_OK }
    }
}

/// Fails if the output argument `name` is NULL. Called before any work is done.
pub(super) fn require<T>(out: *mut T, name: &'static str) -> Result<(), Failure> {
    if out.is_null() { Err(Failure::Argument(name, "must not be NULL")) } else { Ok(()) }
}

/// Maximum accepted size of a record of a newer header.
const MAX_SIZE: usize = 4096;

/// Returns whether a release had the record with this size.
fn is_known<T: Record>(size: usize) -> bool {
    size == size_of::<T>() || T::EARLIER_SIZES.contains(&size)
}

/// Checks the size of a record before the record is read or written. Any other size than a known
/// one is that of a newer header, in which the record has grown, or an error of the caller.
pub(super) fn check_size<T: Record>(name: &'static str, size: usize) -> Result<(), Failure> {
    let may_be_newer = size > size_of::<T>() && size <= MAX_SIZE && size.is_multiple_of(align_of::<T>());
    if is_known::<T>(size) || may_be_newer {
        Ok(())
    } else {
        Err(Failure::Argument(name, "must be sizeof the record"))
    }
}

/// Refuses a size and a capacity of which only the capacity is the size of a record. The size of
/// a newer header could be accepted, but it is far more probable that the caller has swapped
/// them.
fn check_not_swapped<T: Record>(size: usize, capacity: usize) -> Result<(), Failure> {
    if is_known::<T>(capacity) && !is_known::<T>(size) {
        return Err(Failure::Argument(
            "size",
            "must be sizeof the record; it and the number of records are swapped",
        ));
    }
    Ok(())
}

/// Returns the caller's array `name` of `count` items, where `counter` names the count argument.
/// A count of 0 allows NULL.
///
/// # Safety
/// `items` is NULL, or `count` items are readable and do not change while the result is in use.
pub(super) unsafe fn items<'a, T>(
    items: *const T,
    name: &'static str,
    (counter, count): (&'static str, usize),
) -> Result<&'a [T], Failure> {
    if count == 0 {
        return Ok(&[]);
    }
    if items.is_null() {
        return Err(Failure::NullArray(name, counter));
    }
    if count.checked_mul(size_of::<T>()).is_none_or(|bytes| isize::try_from(bytes).is_err()) {
        return Err(Failure::Argument(counter, "exceeds the address space"));
    }
    // SAFETY: not NULL, within the address space, and readable by this function's contract.
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

    // SAFETY: two numbers of the same size, so no padding.
    unsafe impl Record for Pair {
        const EARLIER_SIZES: &'static [usize] = &[4];
    }

    fn filled(size: usize, capacity: usize) -> (Vec<u8>, usize, vfp_status) {
        let mut bytes = vec![0xee; 24];
        // SAFETY: capacity * size is at most 24 in these tests.
        let mut slots =
            unsafe { Slots::<Pair>::new(size, capacity, bytes.as_mut_ptr().cast(), "pairs") }.ok().unwrap();
        slots.push(&Pair { first: 1, second: 2 });
        slots.push(&Pair { first: 3, second: 4 });
        let mut count = 0;
        // SAFETY: a local variable.
        let status = unsafe { slots.finish(&raw mut count) };
        (bytes, count, status)
    }

    #[test]
    fn older_caller_gets_the_fields_that_it_knows() {
        let (bytes, count, status) = filled(4, 2);
        assert_eq!((count, status), (2, VFP_OK));
        assert_eq!(bytes[..12], [1, 0, 0, 0, 3, 0, 0, 0, 0xee, 0xee, 0xee, 0xee]);
    }

    #[test]
    fn newer_caller_gets_zeros_in_unknown_fields() {
        let (bytes, ..) = filled(12, 2);
        assert_eq!(bytes, [1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn record_that_does_not_fit_is_counted_not_written() {
        let (bytes, count, status) = filled(8, 1);
        assert_eq!((count, status), (2, VFP_TRUNCATED));
        assert_eq!(bytes[8..], [0xee; 16]);
    }

    #[test]
    fn invalid_sizes_and_capacities_are_refused() {
        let mut pair = Pair { first: 0, second: 0 };
        let pointer = &raw mut pair;
        for (size, capacity, pointer) in [
            (0, 1, pointer),
            (3, 1, pointer),
            (8, 1, std::ptr::null_mut()),
            (8, usize::MAX, pointer),
            (usize::MAX, 1, pointer),
            (4100, 1, pointer),
            // No multiple of the alignment.
            (10, 1, pointer),
            // Swapped, with the present size and with an earlier one.
            (1, 8, pointer),
            (16, 8, pointer),
            (16, 4, pointer),
            (8, usize::MAX / 8, pointer),
        ] {
            // SAFETY: the call is refused before anything is written.
            let refused = unsafe { Slots::<Pair>::new(size, capacity, pointer, "pairs") };
            assert!(
                matches!(refused, Err(Failure::Argument(..) | Failure::NullArray(..))),
                "{size} {capacity}"
            );
        }
    }
}
