/*
 * holder - hold a VFIO group or device as a VM does, until killed.
 *
 *   holder [--node PATH] group GROUP              the group only: what a starting VM holds before its first device
 *   holder [--node PATH] full GROUP ADDRESS       container, group and device: a running VM
 *   holder [--node PATH] device GROUP ADDRESS     the device only: group and container are closed again
 *   holder [--node PATH] loop N GROUP ADDRESS     open all three and close them, N times; count EBUSY
 *   holder bound NODE                             a device by its cdev, bound to an iommufd: a running VM with IOMMUFD
 *   holder cdev NODE                              the same before the bind; other openers are not locked out
 *
 * PATH is the group's device node, /dev/vfio/GROUP by default. NODE is a cdev. Prints "held" when it holds. Exit status 1: a step failed,
 * and standard error names the step and its errno. Exit status 2: wrong usage.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#ifndef VFIO_DEVICE_BIND_IOMMUFD
/* The headers of kernels before 6.6 do not have it. */
struct vfio_device_bind_iommufd {
	__u32 argsz;
	__u32 flags;
	__s32 iommufd;
	__u32 out_devid;
};
#define VFIO_DEVICE_BIND_IOMMUFD _IO(VFIO_TYPE, VFIO_BASE + 18)
#endif

static _Noreturn void fail(const char *step)
{
	int error = errno;

	fprintf(stderr, "holder: %s: %s (errno %d)\n", step, strerror(error), error);
	exit(1);
}

static _Noreturn void usage(void)
{
	fputs("usage: holder [--node PATH] group GROUP | full GROUP ADDRESS | device GROUP ADDRESS | loop N GROUP ADDRESS\n"
	      "       holder bound NODE | cdev NODE\n", stderr);
	exit(2);
}

static int open_group(const char *node)
{
	return open(node, O_RDWR | O_CLOEXEC);
}

/* Puts the group into a new container with an IOMMU and returns the container. */
static int attach(int group)
{
	struct vfio_group_status status = { .argsz = sizeof(status) };
	int container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);

	if (container < 0)
		fail("open /dev/vfio/vfio");
	if (ioctl(group, VFIO_GROUP_GET_STATUS, &status) < 0)
		fail("VFIO_GROUP_GET_STATUS");
	if (!(status.flags & VFIO_GROUP_FLAGS_VIABLE)) {
		fputs("holder: the group is not viable\n", stderr);
		exit(1);
	}
	if (ioctl(group, VFIO_GROUP_SET_CONTAINER, &container) < 0)
		fail("VFIO_GROUP_SET_CONTAINER");
	if (ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) < 0)
		fail("VFIO_SET_IOMMU");
	return container;
}

static int open_device(int group, const char *address)
{
	int device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, address);

	if (device < 0)
		fail("VFIO_GROUP_GET_DEVICE_FD");
	return device;
}

static _Noreturn void hold(void)
{
	puts("held");
	fflush(stdout);
	for (;;)
		pause();
}

/* Binds a device that was opened by its cdev to a new iommufd. */
static void bind_device(int device)
{
	struct vfio_device_bind_iommufd bind = { .argsz = sizeof(bind) };

	bind.iommufd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	if (bind.iommufd < 0)
		fail("open /dev/iommu");
	if (ioctl(device, VFIO_DEVICE_BIND_IOMMUFD, &bind) < 0)
		fail("VFIO_DEVICE_BIND_IOMMUFD");
}

/* Opens and closes as a VM that starts and stops again and again. Every EBUSY is caused by the open of another process. */
static void loop(const char *node, long times, const char *address)
{
	long busy = 0;

	for (long i = 0; i < times; i++) {
		int group = open_group(node);

		if (group < 0 && errno == EBUSY) {
			busy++;
			continue;
		}
		if (group < 0)
			fail(node);
		int container = attach(group);
		int device = open_device(group, address);
		close(device);
		close(group);
		close(container);
		/* Each round meets a process that opens at a fixed interval in another phase. */
		nanosleep(&(struct timespec){ .tv_nsec = (i % 7) * 1000000L }, NULL);
	}
	printf("opens %ld busy %ld\n", times, busy);
}

int main(int argc, char **argv)
{
	const char *node = NULL;
	char path[64];

	if (argc > 2 && strcmp(argv[1], "--node") == 0) {
		node = argv[2];
		argv += 2;
		argc -= 2;
	}
	if (argc < 3)
		usage();
	const char *mode = argv[1];

	if (strcmp(mode, "bound") == 0 || strcmp(mode, "cdev") == 0) {
		int device = open(argv[2], O_RDWR | O_CLOEXEC);

		if (node != NULL || argc != 3)
			usage();
		if (device < 0)
			fail(argv[2]);
		if (strcmp(mode, "bound") == 0)
			bind_device(device);
		hold();
	}

	bool looping = strcmp(mode, "loop") == 0;
	int at = looping ? 3 : 2;
	bool group_only = strcmp(mode, "group") == 0;

	if (argc != at + (group_only ? 1 : 2))
		usage();
	if (node == NULL) {
		snprintf(path, sizeof(path), "/dev/vfio/%s", argv[at]);
		node = path;
	}
	if (looping) {
		loop(node, strtol(argv[2], NULL, 10), argv[at + 1]);
		return 0;
	}

	int group = open_group(node);

	if (group < 0)
		fail(node);
	if (group_only)
		hold();

	int container = attach(group);

	open_device(group, argv[at + 1]);
	if (strcmp(mode, "full") == 0)
		hold();
	if (strcmp(mode, "device") != 0)
		usage();
	close(group);
	close(container);
	hold();
}
