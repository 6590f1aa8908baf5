package vfioprobe

// #include <vfio_probe.h>
import "C"

import "sync"

// records lends arrays for C to fill. They are kept between calls: what comes out is copied into Go's types anyhow, and
// an array for a large node is 100 KB.
type records[T any] struct{ pool sync.Pool }

// fill calls with an array that is large enough, and hands what was written to take. The call gets the array's first
// record, its capacity, and where to write how many there are; where it fails, failed says why.
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
		return int(count), status == C.VFP_MORE
	})
	switch {
	case status < 0:
		return failure(failed)
	case !fits:
		return &Error{Kind: ErrorTooLong, Group: NoGroup, Text: "a list has grown whenever it was read"}
	}
	take((*array)[:min(count, len(*array))])
	return nil
}

// attempts bounds how often a list is read that grows while it is read. An array has some room to spare, so a list that
// was longer each time would have a million times as many entries.
const attempts = 64

// fit reads into the array, and makes it larger until all that there is fits; false if it never does.
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
