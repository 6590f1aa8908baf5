package vfioprobe

// #include <vfio_probe.h>
import "C"

import "sync"

// records lends arrays for C to fill. They are kept between calls: what comes out is copied into Go's types anyhow, and
// an array for a large node is 100 KB.
type records[T any] struct{ pool sync.Pool }

// attempts bounds how often an array is made larger: what is listed may grow while it is listed.
const attempts = 8

// fill calls with an array that is large enough, and hands what was written to take. The call gets the array's first
// record, its capacity, and where to write how many there are.
func (r *records[T]) fill(call func(*T, C.size_t, *C.size_t) C.vfp_status, take func([]T)) C.vfp_status {
	array, _ := r.pool.Get().(*[]T)
	if array == nil {
		array = new([]T)
		*array = make([]T, 16)
	}
	defer r.pool.Put(array)
	for attempt := 1; ; attempt++ {
		var count C.size_t
		status := call(&(*array)[0], C.size_t(len(*array)), &count)
		if status == C.VFP_MORE && attempt < attempts {
			*array = make([]T, count+count/4)
			continue
		}
		if status >= 0 {
			take((*array)[:min(int(count), len(*array))])
		}
		return status
	}
}
