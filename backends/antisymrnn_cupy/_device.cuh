// What the kernels ask of a device beyond plain CUDA C++. The harness that runs them on a CPU has the same words.

extern __shared__ __align__(16) unsigned char dynamic_shared_memory[];

__device__ __forceinline__ unsigned char* shared_memory() { return dynamic_shared_memory; }

// Copy so many bytes (4, 8 or 16) to shared memory; the calling thread may read them after a wait, others after a
// barrier behind that wait.
template <int BYTES>
__device__ __forceinline__ void async_copy(void* shared, const void* global) {
    unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(global), "n"(BYTES) : "memory");
}

__device__ __forceinline__ void async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Wait for the calling thread's groups of copies, but for the N newest.
template <int N>
__device__ __forceinline__ void async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

#if __CUDA_ARCH__ >= 900
// Wait for every thread of the cluster; what was written before is seen behind it.
__device__ __forceinline__ void cluster_barrier() {
    asm volatile("barrier.cluster.arrive.release;\n\tbarrier.cluster.wait.acquire;" ::: "memory");
}

__device__ __forceinline__ unsigned peer_address(void* own_address, int rank) {
    unsigned own = static_cast<unsigned>(__cvta_generic_to_shared(own_address)), peer;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(peer) : "r"(own), "r"(rank));
    return peer;
}

// Write to the same place in the shared memory of another block of the cluster.
__device__ __forceinline__ void peer_store(float* own_address, int rank, float value) {
    asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(peer_address(own_address, rank)), "f"(value) : "memory");
}

__device__ __forceinline__ void peer_store(double* own_address, int rank, double value) {
    asm volatile("st.shared::cluster.f64 [%0], %1;" ::"r"(peer_address(own_address, rank)), "d"(value) : "memory");
}
#endif

// Wait for every thread of a cooperative launch. The counter's two words, blocks that wait and barriers passed, are zero
// before the first launch that uses it; the next may have another grid.
__device__ __forceinline__ void grid_barrier(unsigned long long* counter) {
    __syncthreads();
    if (threadIdx.x == 0) {
        unsigned long long before, passed;
        asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(before) : "l"(counter + 1) : "memory");
        __threadfence();
        if (atomicAdd(counter, 1ull) == gridDim.x - 1) {
            atomicExch(counter, 0ull);
            __threadfence();
            atomicAdd(counter + 1, 1ull);
        } else {
            do {
                asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(passed) : "l"(counter + 1) : "memory");
            } while (passed == before);
        }
        __threadfence();
    }
    __syncthreads();
}
