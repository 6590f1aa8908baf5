/* Uses two static libraries of Rust: ours and other.rs. Each has a standard library of its own. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <vfio_probe.h>

#ifdef __cplusplus
extern "C"
#endif
uint32_t other_catches_two_panics(void);

int main(void) {
    vfp_root *root = NULL;
    vfp_error error;
    vfp_occupancy occupancy;
    if (other_catches_two_panics() != 2) return 2;
    if (vfp_root_open("/no/such/directory", &root, &error) != VFP_MISSING) return 3;
    if (strstr(error.text, "No such file or directory") == NULL) return 4;
    if (vfp_root_open("/", &root, &error) != VFP_OK) return 5;
    /* On a helper thread. No host has this group. */
    if (vfp_probe_within(root, 4000000, 5000, sizeof occupancy, &occupancy, &error) != VFP_OK) return 6;
    if (occupancy.state != VFP_STATE_ABSENT) return 7;
    vfp_root_close(&root);
    puts(vfp_version());
    return other_catches_two_panics() == 3 ? 0 : 8;
}
