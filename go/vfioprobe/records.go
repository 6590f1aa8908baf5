package vfioprobe

// #include "vfio_probe.h"
import "C"

import "sync"

// records is a pool of arrays that C fills. Arrays are reused, because the records are copied into Go types and an array
// for a large node has 100 KB.
type records[T any] struct{ pool sync.Pool }

// fill runs call with an array that is large enough and passes the records to take. The arguments of call are the first
// record, the capacity, and the output for the number of records. If call fails, it has filled failed.
func (r *records[T]) fill(
	failed *C.vfp_error, call func(*T, C.size_t, *C.size_t) C.vfp_status, take func([]T),
) error {
	array, _ := r.pool.Get().(*[]T)
	if array == nil {
		array = new([]T)
		*array = make([]T, 16)
	}
	defer r.pool.Put(array)
	var status C.vfp_status
	count, fits := fit(array, func(array []T) (int, bool) {
		var count C.size_t
		status = call(&array[0], C.size_t(len(array)), &count)
		return int(count), status == C.VFP_TRUNCATED
	})
	switch {
	case status < 0:
		return failure(failed)
	case !fits:
		return &Error{Kind: ErrorTooLong, Group: NoGroup, Text: "the list grew during every attempt to read it"}
	}
	take((*array)[:min(count, len(*array))])
	return nil
}

// attempts limits how often a growing list is read again. Each array has a quarter more room than the list had, so a list
// that outgrows every array has grown a millionfold.
const attempts = 64

// fit reads into the array and enlarges it until the list fits. It returns false if the list never fits.
func fit[T any](array *[]T, read func([]T) (count int, more bool)) (int, bool) {
	for range attempts {
		count, more := read(*array)
		if !more {
			return count, true
		}
		*array = make([]T, max(count+count/4, len(*array)))
	}
	return 0, false
}
