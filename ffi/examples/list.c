/* Lists the devices bound to VFIO drivers with their groups, and whether each group looks held. Opens no device.
 *
 * list [ROOT]       ROOT is the directory with sys, dev and proc (default /)
 *
 * cc list.c $(pkg-config --cflags --libs vfio-probe) -o list
 */
#include <stdio.h>
#include <vfio_probe.h>

int main(int argc, char **argv) {
    static vfp_device devices[1024];
    vfp_root *root = NULL;
    vfp_error error;
    size_t count = 0, index;
    if (vfp_root_open(argc > 1 ? argv[1] : "/", &root, &error) < 0 ||
        vfp_scan(root, sizeof devices[0], 1024, devices, &count, &error) < 0) {
        fprintf(stderr, "list: %s\n", error.text);
        vfp_root_close(&root);
        return 1;
    }
    for (index = 0; index < count && index < 1024; index++) {
        const vfp_device *device = &devices[index];
        int32_t peek = VFP_PEEK_UNAVAILABLE;
        if (device->status != VFP_OK)
            fprintf(stderr, "list: skipped: %s\n", device->error_text);
        else if (vfp_peek(root, device->group, &peek, &error) < 0)
            fprintf(stderr, "list: %s: %s\n", device->id, error.text);
        else
            printf("%s %04x:%04x group %u %s\n", device->id, device->vendor, device->device, device->group, vfp_peek_text(peek));
    }
    vfp_root_close(&root);
    return 0;
}
