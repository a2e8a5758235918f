// Both cells of the AntisymmetricRNN on the GPU, in true float32 or float64.
//
// Every product and sum is rounded by itself but where `fma` stands (by a compiler option), no sum depends on the
// order in which threads run, and there are no atomic sums: the same input gives the same bits. Every entry of a matrix
// product is summed in an order that its instance alone decides, so a sample's states do not depend on the rest of the
// batch. The tags are the specification's (antisymrnn_ref/DERIVATION.md).
//
// `forward_steps` and `backward_steps` run a whole sequence of steps in one launch: a block, or a cluster of blocks,
// owns some samples (`columns`) from the first step to the last, the weights lie in registers (and, where those do not
// hold them, in shared memory), and the blocks of different samples never wait for each other. `forward_any` and
// `backward_any` do the same for any n, with a barrier of the whole grid in each step.

template <typename real>
struct Steps {           // the arguments of a launch over the steps first … last − 1; absent arrays are null
    const real* M;       // (n, n), backward Mᵀ
    const real *V, *b;   // (n, m), (n,)
    const real *V_z, *b_z;
    const real* x;       // (T, B, m), used where there is no u
    const real *u, *u_z; // (last − first, B, n), V x + b
    const real* h_begin; // (B, n), the state before the first step
    real* h_end;         // (B, n), the state after the last step
    real* h;             // (…, B, n), the states of the steps h_first, h_first + h_every, …
    real *s, *z;         // (…, B, n), of the steps s_first, s_first + 1, …
    const real* g;       // (T + 1, B, n)
    real* adjoint;       // (B, n), of the state after the last step, then of the one before the first
    real* terms;         // (B, n), sums of the terms of dε so far
    real *delta, *delta_z; // (last − first, B, n)
    real* vectors;       // (2, B, n), what the blocks of one grid exchange
    unsigned long long* counter; // (2,), their barrier's
    long long h_first, h_every, s_first, first, last, B, n, m, columns;
    real step_size;
};

// ---- scalars

template <typename real>
struct Coefficients;

// As in the Numba backend: minimax polynomials by Remez on 50 digits.
template <>
struct Coefficients<float> {
    static constexpr int MANTISSA = 23;
    static constexpr float LOG2_E = 0x1.715476p+0f, LN2 = 0x1.62e4p-1f, LN2_REST = 0x1.7f7d1cp-20f;
    static constexpr float TANH_ROUND = 0x1.8000fcp+23f, TANH_SMALL = 0x1.19999ap-1f, TANH_MOST = 10.0f;
    static constexpr float SIGMOID_ROUND = 0x1.8000c2p+23f, SIGMOID_LEAST = -104.0f, SIGMOID_MOST = 20.0f;
    static constexpr float SIGMOID_SCALE = 0x1p-30f;
    static __device__ __forceinline__ float tanh_series(float w) {
        return fma(w, fma(w, 0x1.a326p-9f, -0x1.23016ap-5f), 0x1.1110dcp-1f);
    }
    static __device__ __forceinline__ float exp_series(float r) {
        return fma(r, fma(r, fma(r, fma(r, 0x1.695104p-10f, -0x1.123c0cp-7f), 0x1.555a24p-5f), -0x1.55548ep-3f),
                   0x1.fffffap-2f);
    }
};

template <>
struct Coefficients<double> {
    static constexpr int MANTISSA = 52;
    static constexpr double LOG2_E = 0x1.71547652b82fep+0, LN2 = 0x1.62e42fefa38p-1, LN2_REST = 0x1.ef35793c7673p-45;
    static constexpr double TANH_ROUND = 0x1.80000000003fep+52, TANH_SMALL = 0x1.199999999999ap-1, TANH_MOST = 20.0;
    static constexpr double SIGMOID_ROUND = 0x1.80000000003c3p+52, SIGMOID_LEAST = -746.0, SIGMOID_MOST = 40.0;
    static constexpr double SIGMOID_SCALE = 0x1p-60;
    static __device__ __forceinline__ double tanh_series(double w) {
        double p = fma(w, -0x1.0af6ca3562b3ap-25, 0x1.76164fd371e1ep-22);
        p = fma(p, w, -0x1.d0b4e56f56272p-19);
        p = fma(p, w, 0x1.1eed4be90e6d8p-15);
        p = fma(p, w, -0x1.6312c68689dc8p-12);
        p = fma(p, w, 0x1.bbd77931d8f01p-9);
        p = fma(p, w, -0x1.23456789ab322p-5);
        return fma(p, w, 0x1.111111111111p-1);
    }
    static __device__ __forceinline__ double exp_series(double r) {
        double p = fma(r, -0x1.ada8bb15ed5bp-26, 0x1.28ae5d9e9a89ap-22);
        p = fma(p, r, -0x1.71df0a847a33fp-19);
        p = fma(p, r, 0x1.a01999075abe7p-16);
        p = fma(p, r, -0x1.a01a0136eaeb9p-13);
        p = fma(p, r, 0x1.6c16c1848f90dp-10);
        p = fma(p, r, -0x1.11111111253dbp-7);
        p = fma(p, r, 0x1.555555555067ap-5);
        p = fma(p, r, -0x1.5555555555505p-3);
        return fma(p, r, 0x1.000000000000ap-1);
    }
};

__device__ __forceinline__ unsigned bits(float value) { return __float_as_uint(value); }
__device__ __forceinline__ unsigned long long bits(double value) {
    return static_cast<unsigned long long>(__double_as_longlong(value));
}
__device__ __forceinline__ float from_bits(unsigned value) { return __uint_as_float(value); }
__device__ __forceinline__ double from_bits(unsigned long long value) {
    return __longlong_as_double(static_cast<long long>(value));
}

// tanh |x| = 1 − D/(h M + D/2), D = κ (…)(C − r), M = κ (C + r), C = r coth r, |x| = r + k ln 2 / 2, h = 2^(k−1).
// Near 0 (k = 0) it is |x| − |x| (C − 1)/(h M + D/2). κ scales numerator and denominator, for fewer roundings.
template <typename real>
__device__ __forceinline__ real tanh_of(real x) {
    using c = Coefficients<real>;
    constexpr real KAPPA = 1.6;
    real magnitude = fabs(x);
    magnitude = magnitude > c::TANH_MOST ? c::TANH_MOST : magnitude;  // NaN stays
    const bool small = magnitude < c::TANH_SMALL;
    const real rounded = fma(small ? real(0) : magnitude, 2 * c::LOG2_E, c::TANH_ROUND);
    const real k = rounded - c::TANH_ROUND;
    const real r = fma(k, -c::LN2_REST / 2, fma(k, -c::LN2 / 2, magnitude));
    const real w = r * r;
    const real excess = w * c::tanh_series(w);
    const real C = excess + KAPPA;
    const real M = fma(r, KAPPA, C);
    const real D = fma(r, -2 * KAPPA, M);
    const real power = from_bits(bits(rounded) << c::MANTISSA);
    const real ratio = (small ? excess : D) / fma(power, M, D * real(0.5));
    const real scale = small ? magnitude : real(1);
    const real result = fma(-scale, ratio, scale);
    return from_bits(bits(result) | (bits(x) & bits(real(-0.0))));
}

// σ(x) = 1/(1 + 2^k (1 + p)), −x = k ln 2 − r, p = e^−r − 1; scaled, so that 2^k is never too large.
template <typename real>
__device__ __forceinline__ real sigmoid_of(real x) {
    using c = Coefficients<real>;
    x = x < c::SIGMOID_LEAST ? c::SIGMOID_LEAST : x;
    x = x > c::SIGMOID_MOST ? c::SIGMOID_MOST : x;
    const real rounded = fma(x, -c::LOG2_E, c::SIGMOID_ROUND);
    const real k = rounded - c::SIGMOID_ROUND;
    const real r = fma(k, c::LN2_REST, fma(k, c::LN2, x));
    const real p = fma(r * r, c::exp_series(r), -r);
    const real power = from_bits(bits(rounded) << c::MANTISSA);
    return c::SIGMOID_SCALE / fma(power, p, power + c::SIGMOID_SCALE);
}

template <typename real>
struct Unit {  // one unit of one sample in one step; ungated, z and delta_z are not used
    real h, s, z, delta, delta_z;
};

template <bool GATED, typename real>
__device__ __forceinline__ Unit<real> advance(real product, real u, real u_z, real h, real step_size) {
    Unit<real> unit{};
    const real a = product + u;  // (F2) (GF1)
    unit.s = tanh_of(a);         // (F3) (GF2)
    if (GATED) {
        const real a_z = product + u_z;  // (GF3)
        unit.z = sigmoid_of(a_z);        // (GF4)
    }
    unit.h = fma(step_size, GATED ? unit.z * unit.s : unit.s, h);  // (F4) (GF5)
    return unit;
}

template <bool GATED, typename real>
__device__ __forceinline__ Unit<real> retreat(real adjoint, real s, real z, real step_size) {
    Unit<real> unit{};
    const real slope = fma(-s, s, real(1));
    if (GATED) {
        unit.delta = step_size * z * slope * adjoint;            // (GB1)
        unit.delta_z = step_size * s * z * (real(1) - z) * adjoint;  // (GB2)
    } else {
        unit.delta = step_size * slope * adjoint;  // (B1)
    }
    return unit;
}

template <bool GATED, typename real>
__device__ __forceinline__ real add_term(real adjoint, real s, real z, real terms) {
    return fma(adjoint, GATED ? z * s : s, terms);  // (B7) (GB8)
}

// ---- a block or a cluster for a few samples, n up to the instance's N

constexpr int ROWS = 8;  // rows of M that a thread has a part of

template <typename real>
struct Pack;
template <>
struct Pack<float> {
    using type = float4;
    static __device__ __forceinline__ void unpack(const float4& from, float* to) {
        to[0] = from.x, to[1] = from.y, to[2] = from.z, to[3] = from.w;
    }
};
template <>
struct Pack<double> {
    using type = double2;
    static __device__ __forceinline__ void unpack(const double2& from, double* to) { to[0] = from.x, to[1] = from.y; }
};

// How N units are spread: each of CLUSTER blocks has N/CLUSTER rows of M, LANES threads share 8 of them and N/LANES of
// their entries fall to each, HELD of these in registers and the others in shared memory.
template <typename real_, int N_, int CLUSTER_, int LANES_, int HELD_>
struct Layout {
    using real = real_;
    static constexpr int N = N_, CLUSTER = CLUSTER_, LANES = LANES_, HELD = HELD_;
    static constexpr int UNITS = N / CLUSTER, THREADS = UNITS / ROWS * LANES, TERMS = N / LANES;
    static constexpr int WIDTH = 16 / sizeof(real);
    static constexpr int DEPTH = 4;       // steps whose inputs are under way or at hand
    static constexpr int FEW_INPUTS = 4;  // up to so many, V x is computed here
    static_assert(N % CLUSTER == 0 && UNITS % ROWS == 0 && THREADS % 32 == 0 && N % LANES == 0, "uneven rows");
    static_assert(TERMS % WIDTH == 0 && HELD % WIDTH == 0 && HELD > 0 && HELD <= TERMS && LANES >= ROWS, "uneven terms");
};

template <class L>
struct Place {  // where a thread stands
    int thread, lane, unit, j, rank;
    bool owner;  // the thread that has the whole sum of its unit, and that the unit is one of the n
    long long column;  // the first sample of the block
    int live;          // how many it has
};

template <class L, typename real>
__device__ __forceinline__ Place<L> place(const Steps<real>& call) {
    Place<L> at;
    at.thread = threadIdx.x;
    at.lane = at.thread % L::LANES;
    at.rank = blockIdx.x % L::CLUSTER;
    at.unit = at.thread / L::LANES * ROWS + at.lane % ROWS;
    at.j = at.rank * L::UNITS + at.unit;
    at.owner = at.lane < ROWS;
    at.column = blockIdx.x / L::CLUSTER * call.columns;
    const long long left = call.B - at.column;
    at.live = static_cast<int>(left < call.columns ? left : call.columns);
    return at;
}

template <class L>
__device__ __forceinline__ void barrier() {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    if constexpr (L::CLUSTER > 1) return cluster_barrier();
#endif
    __syncthreads();
}

// Write an entry of a vector in every block of the cluster.
template <class L, typename real>
__device__ __forceinline__ void share(real* place, real value) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    if constexpr (L::CLUSTER > 1) {
#pragma unroll
        for (int rank = 0; rank < L::CLUSTER; ++rank) peer_store(place, rank, value);
        return;
    }
#endif
    *place = value;
}

template <class L>
struct Weights {
    using real = typename L::real;
    using pack = typename Pack<real>::type;
    real held[L::HELD][ROWS];
    real* others;  // (TERMS − HELD, ROWS/WIDTH, THREADS, WIDTH), in shared memory

    // The k of a thread's term: neighbours of WIDTH, so that the lanes of a group read whole lines.
    static __device__ __forceinline__ int term(int lane, int i) {
        return L::WIDTH * (lane + L::LANES * (i / L::WIDTH)) + i % L::WIDTH;
    }

    // Accumulator r of a lane is for row r xor lane: the exchange below needs no selection then.
    static __device__ __forceinline__ int row(const Place<L>& at, int r) {
        return at.rank * L::UNITS + at.thread / L::LANES * ROWS + (r ^ (at.lane % ROWS));
    }

    static __device__ __forceinline__ real entry(const Place<L>& at, const real* M, int n, int r, int i) {
        const int j = row(at, r), k = term(at.lane, i);
        return j < n && k < n ? M[static_cast<long long>(j) * n + k] : real(0);
    }

    // Where a thread's parts of term i begin, in packs; those of its rows are THREADS apart.
    static __device__ __forceinline__ int other(const Place<L>& at, int i) {
        return (i - L::HELD) * (ROWS / L::WIDTH) * L::THREADS + at.thread;
    }

    __device__ __forceinline__ void load(const Place<L>& at, const real* M, int n) {
#pragma unroll
        for (int i = 0; i < L::HELD; ++i) {
#pragma unroll
            for (int r = 0; r < ROWS; ++r) held[i][r] = entry(at, M, n, r, i);
        }
#pragma unroll 1
        for (int i = L::HELD; i < L::TERMS; ++i) {
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
                others[(other(at, i) + r / L::WIDTH * L::THREADS) * L::WIDTH + r % L::WIDTH] = entry(at, M, n, r, i);
            }
        }
    }

    // The product of this thread's unit with a vector of N entries, the sum of all lanes.
    __device__ __forceinline__ real product(const Place<L>& at, const real* vector) const {
        real sums[ROWS] = {}, entries[L::WIDTH];
        const pack *vectors = reinterpret_cast<const pack*>(vector) + at.lane, *packs = reinterpret_cast<const pack*>(others);
#pragma unroll
        for (int i = 0; i < L::HELD; ++i) {
            if (i % L::WIDTH == 0) Pack<real>::unpack(vectors[i / L::WIDTH * L::LANES], entries);
#pragma unroll
            for (int r = 0; r < ROWS; ++r) sums[r] = fma(held[i][r], entries[i % L::WIDTH], sums[r]);
        }
#pragma unroll 1
        for (int begin = L::HELD; begin < L::TERMS; begin += L::WIDTH) {
            Pack<real>::unpack(vectors[begin / L::WIDTH * L::LANES], entries);
#pragma unroll
            for (int i = 0; i < L::WIDTH; ++i) {
                real column[ROWS];
#pragma unroll
                for (int r = 0; r < ROWS; r += L::WIDTH) {
                    Pack<real>::unpack(packs[other(at, begin + i) + r / L::WIDTH * L::THREADS], column + r);
                }
#pragma unroll
                for (int r = 0; r < ROWS; ++r) sums[r] = fma(column[r], entries[i], sums[r]);
            }
        }
#pragma unroll
        for (int half = ROWS / 2; half > 0; half /= 2) {
#pragma unroll
            for (int r = 0; r < half; ++r) sums[r] += __shfl_xor_sync(0xffffffffu, sums[r + half], half);
        }
#pragma unroll
        for (int apart = ROWS; apart < L::LANES; apart *= 2) {
            sums[0] += __shfl_xor_sync(0xffffffffu, sums[0], apart);
        }
        return sums[0];
    }
};

// Numbers of shared memory, in order: the other weights, two vectors of N for each sample, then what is the pass's own.
template <class L>
__device__ __forceinline__ constexpr int other_weights() {
    return (L::TERMS - L::HELD) * ROWS * L::THREADS;
}

// Keep a number in its register: the compiler would compute it again in every step.
__device__ __forceinline__ void keep(int& value) { asm volatile("" : "+r"(value)); }

template <class L, bool GATED>
__device__ __forceinline__ void forward_steps(const Steps<typename L::real>& call) {
    using real = typename L::real;
    const Place<L> at = place<L>(call);
    const int n = static_cast<int>(call.n), m = static_cast<int>(call.m), columns = static_cast<int>(call.columns);
    const int steps = static_cast<int>(call.last - call.first);
    const bool inside = at.owner && at.j < n, few = call.u == nullptr;
    const real step_size = call.step_size;
    const long long Bn = call.B * call.n, mine = at.column * call.n + at.j;

    real* shared = reinterpret_cast<real*>(shared_memory());
    Weights<L> weights;
    weights.others = shared;
    real* vectors = shared + other_weights<L>();  // (2, columns, N)
    real* ring = vectors + 2 * columns * L::N;    // (DEPTH, columns, inputs)
    const int inputs = few ? L::FEW_INPUTS : (GATED ? 2 : 1) * L::UNITS, slot = columns * inputs;
    weights.load(at, call.M, n);
    real V[L::FEW_INPUTS] = {}, V_z[L::FEW_INPUTS] = {}, b = 0, b_z = 0;
    if (few && inside) {
        b = call.b[at.j];
        if (GATED) b_z = call.b_z[at.j];
#pragma unroll
        for (int i = 0; i < L::FEW_INPUTS; ++i) {
            if (i < m) V[i] = call.V[static_cast<long long>(at.j) * m + i];
            if (GATED && i < m) V_z[i] = call.V_z[static_cast<long long>(at.j) * m + i];
        }
    }

    const real *x = call.x + (call.first * call.B + at.column) * m, *u = call.u + mine, *u_z = call.u_z + mine;
    int fetched = 0;
    const auto fetch = [&] {  // the inputs of the next step
        if (fetched < steps) {
            real* to = ring + fetched % L::DEPTH * slot;
            if (few) {
#pragma unroll 1
                for (int e = at.thread; e < at.live * L::FEW_INPUTS; e += L::THREADS) {
                    const int c = e / L::FEW_INPUTS, k = e % L::FEW_INPUTS;
                    if (k < m) async_copy<sizeof(real)>(to + e, x + c * m + k);
                }
                x += call.B * m;
            } else if (inside) {
#pragma unroll 1
                for (int c = 0; c < at.live; ++c) {
                    async_copy<sizeof(real)>(to + c * inputs + at.unit, u + c * n);
                    if (GATED) async_copy<sizeof(real)>(to + c * inputs + L::UNITS + at.unit, u_z + c * n);
                }
                u += Bn, u_z += Bn;
            }
        }
        ++fetched;
        async_commit();
    };

    if (few) {  // the inputs that there are not
        for (int e = at.thread; e < L::DEPTH * slot; e += L::THREADS) {
            if (e % L::FEW_INPUTS >= m) ring[e] = real(0);
        }
    }
    // every block has every entry of a vector; those beyond n stay zero
    for (int e = at.thread; e < at.live * L::N; e += L::THREADS) {
        const int c = e / L::N, k = e % L::N;
        vectors[e] = k < n ? call.h_begin[(at.column + c) * n + k] : real(0);
    }
    // the first step whose state is kept, and how many steps of this launch come before it
    const long long behind = call.first - call.h_first;
    const long long passed = behind <= 0 ? 0 : (behind + call.h_every - 1) / call.h_every;
    long long ahead = call.h_first + passed * call.h_every - call.first;
    real* h = call.h + passed * Bn + mine;
    if (call.h == nullptr) ahead = steps + 1ll;
    if (ahead == 0) {
        if (inside) {
            for (int c = 0; c < at.live; ++c) h[c * n] = call.h_begin[mine + c * n];
        }
        ahead = call.h_every, h += Bn;
    }
    const int every = static_cast<int>(call.h_every <= steps ? call.h_every : steps + 1);
    int kept = static_cast<int>(ahead <= steps ? ahead : steps + 1);
    const long long skipped = call.s_first - call.first;
    int stashes = call.s == nullptr || skipped > steps ? steps : static_cast<int>(skipped > 0 ? skipped : 0);
    const long long stashed = (skipped < 0 ? -skipped : 0) * Bn + mine;
    real *s = call.s + stashed, *z = call.z + stashed;

    keep(kept), keep(stashes);

    for (int i = 0; i < L::DEPTH - 1; ++i) fetch();
    async_wait<L::DEPTH - 2>();
    barrier<L>();

    real *now = vectors, *then = vectors + columns * L::N;
    for (int i = 0; i < steps; ++i) {
        fetch();
        const real* input = ring + i % L::DEPTH * slot;
        const bool keeps = i + 1 == kept, ends = i + 1 == steps, stash = i >= stashes;
#pragma unroll 1
        for (int c = 0; c < at.live; ++c) {
            const real before = now[c * L::N + at.j];
            real a = b, a_z = b_z;
            if (few) {
                real inputs_t[L::FEW_INPUTS];
#pragma unroll
                for (int k = 0; k < L::FEW_INPUTS; k += L::WIDTH) {
                    Pack<real>::unpack(reinterpret_cast<const typename Pack<real>::type*>(input + c * inputs)[k / L::WIDTH],
                                       inputs_t + k);
                }
#pragma unroll
                for (int k = 0; k < L::FEW_INPUTS; ++k) {
                    a = fma(V[k], inputs_t[k], a);
                    if (GATED) a_z = fma(V_z[k], inputs_t[k], a_z);
                }
            } else if (inside) {
                a = input[c * inputs + at.unit];
                if (GATED) a_z = input[c * inputs + L::UNITS + at.unit];
            }
            const real product = weights.product(at, now + c * L::N);
            if (at.owner) {
                const Unit<real> unit = advance<GATED>(product, a, a_z, before, step_size);
                share<L>(then + c * L::N + at.j, inside ? unit.h : real(0));
                if (inside) {
                    if (keeps) h[c * n] = unit.h;
                    if (ends) call.h_end[mine + c * n] = unit.h;
                    if (stash) {
                        s[c * n] = unit.s;
                        if (GATED) z[c * n] = unit.z;
                    }
                }
            }
        }
        if (keeps) kept += every, h += Bn;
        if (stash) s += Bn, z += Bn;
        real* swapped = now;
        now = then, then = swapped;
        async_wait<L::DEPTH - 2>();
        barrier<L>();
    }
    async_wait<0>();
}

template <class L, bool GATED>
__device__ __forceinline__ void backward_steps(const Steps<typename L::real>& call) {
    using real = typename L::real;
    const Place<L> at = place<L>(call);
    const int n = static_cast<int>(call.n), columns = static_cast<int>(call.columns);
    const int steps = static_cast<int>(call.last - call.first);
    const bool inside = at.owner && at.j < n, g_states = call.g != nullptr;
    const real step_size = call.step_size;
    const long long Bn = call.B * call.n, mine = at.column * call.n + at.j;

    constexpr int ARRAYS = GATED ? 3 : 2;  // s, g and z
    real* shared = reinterpret_cast<real*>(shared_memory());
    Weights<L> weights;
    weights.others = shared;
    real* vectors = shared + other_weights<L>();                   // (2, columns, N)
    real* adjoints = vectors + 2 * columns * L::N + at.unit;       // (columns, UNITS): from here on a thread's own
    real* terms = adjoints + columns * L::UNITS;                   // (columns, UNITS)
    real* ring = terms + columns * L::UNITS;                       // (DEPTH, columns, ARRAYS, UNITS)
    const int slot = columns * ARRAYS * L::UNITS;
    weights.load(at, call.M, n);

    const long long stashed = (call.last - 1 - call.s_first) * Bn + mine, last = (steps - 1ll) * Bn + mine;
    const real *s = call.s + stashed, *z = call.z + stashed, *g = call.g + (call.last - 1) * Bn + mine;
    real *delta = call.delta + last, *delta_z = call.delta_z + last;
    int fetched = 0;
    const auto fetch = [&] {  // the inputs of the next step, which is the one before in time
        if (fetched < steps && inside) {
            real* to = ring + fetched % L::DEPTH * slot;
#pragma unroll 1
            for (int c = 0; c < at.live; ++c, to += ARRAYS * L::UNITS) {
                async_copy<sizeof(real)>(to, s + c * n);
                if (g_states) async_copy<sizeof(real)>(to + L::UNITS, g + c * n);
                if (GATED) async_copy<sizeof(real)>(to + 2 * L::UNITS, z + c * n);
            }
            s -= Bn, z -= Bn, g -= Bn;
        }
        ++fetched;
        async_commit();
    };

    for (int e = at.thread; e < 2 * columns * L::N; e += L::THREADS) vectors[e] = real(0);
    if (inside) {
        for (int c = 0; c < at.live; ++c) {
            adjoints[c * L::UNITS] = call.adjoint[mine + c * n];
            terms[c * L::UNITS] = call.terms[mine + c * n];
        }
    }
    for (int i = 0; i < L::DEPTH - 1; ++i) fetch();
    barrier<L>();

    for (int i = 0; i < steps; ++i) {
        async_wait<L::DEPTH - 2>();
        const real* own = ring + i % L::DEPTH * slot;
        real* now = vectors + i % 2 * columns * L::N;
        if (inside) {
#pragma unroll 1
            for (int c = 0; c < at.live; ++c) {
                const real *input = own + c * ARRAYS * L::UNITS, adjoint = adjoints[c * L::UNITS];
                const real s_t = input[0], z_t = GATED ? input[2 * L::UNITS] : real(0);
                const Unit<real> unit = retreat<GATED>(adjoint, s_t, z_t, step_size);
                share<L>(now + c * L::N + at.j, GATED ? unit.delta + unit.delta_z : unit.delta);
                terms[c * L::UNITS] = add_term<GATED>(adjoint, s_t, z_t, terms[c * L::UNITS]);
                delta[c * n] = unit.delta;
                if (GATED) delta_z[c * n] = unit.delta_z;
            }
            delta -= Bn, delta_z -= Bn;
        }
        barrier<L>();
        fetch();  // behind the barrier: into the slot of the step before
#pragma unroll 1
        for (int c = 0; c < at.live; ++c) {
            const real product = weights.product(at, now + c * L::N);
            if (inside) {
                real adjoint = adjoints[c * L::UNITS] + product;                   // (B2) (GB3)
                if (g_states) adjoint += own[(c * ARRAYS + 1) * L::UNITS];  // (B2) (GB3)
                adjoints[c * L::UNITS] = adjoint;
            }
        }
    }
    async_wait<0>();
    if (inside) {
        for (int c = 0; c < at.live; ++c) {
            call.adjoint[mine + c * n] = adjoints[c * L::UNITS];
            call.terms[mine + c * n] = terms[c * L::UNITS];
        }
    }
}

// ---- matrix products of any size

template <typename real>
struct Product {  // out[z] (P, Q) = start + Σ_r A(p, r) B(r, q) over the r of slice z
    const real *A, *A_more;  // A(p, r) at p A_p + r A_r, one of these 1; A_more, if any, is added to A
    const real* B;           // B(r, q) at r B_r + q B_q, one of these 1
    const real* start;       // (Q,), or null for zero
    real* out;               // (slices, P, Q)
    long long A_p, A_r, B_r, B_q, P, Q, R;
    long long slice;        // terms of a slice
    long long ones;         // the last column of B is all ones and not in memory
    long long accumulates;  // start from out
};

constexpr int SUM = 16;  // terms that are in shared memory at a time

// Sums of a tile of TILE × TILE entries, of which MINE × COLUMNS fall to each thread, r ascending.
template <typename real, int TILE, int MINE, int COLUMNS>
struct Tile {
    static constexpr int ACROSS = TILE / COLUMNS, THREADS = TILE / MINE * ACROSS, STRIDE = TILE + 4;
    static constexpr int EACH = TILE * SUM / THREADS;
    static constexpr int SHARED = 2 * SUM * STRIDE;

    static __device__ __forceinline__ int first_row() { return static_cast<int>(threadIdx.x) / ACROSS * MINE; }
    static __device__ __forceinline__ int first_column() { return static_cast<int>(threadIdx.x) % ACROSS * COLUMNS; }

    // Where element e of a thread's part of a tile lies; neighbouring threads along the axis that is contiguous.
    static __device__ __forceinline__ void element(int e, bool along_r, int& p, int& r) {
        const int k = e * THREADS + static_cast<int>(threadIdx.x);
        p = along_r ? k / SUM : k % TILE;
        r = along_r ? k % SUM : k / TILE;
    }

    template <class LoadA, class LoadB>
    static __device__ __forceinline__ void add(LoadA load_A, bool A_along_r, LoadB load_B, bool B_along_r,
                                               long long first, long long last, real (&sums)[MINE][COLUMNS]) {
        real* A = reinterpret_cast<real*>(shared_memory());
        real* B = A + SUM * STRIDE;
        real next_A[EACH], next_B[EACH];
        const auto look = [&](long long begin) {
#pragma unroll
            for (int e = 0; e < EACH; ++e) {
                int p, r;
                element(e, A_along_r, p, r);
                next_A[e] = begin + r < last ? load_A(p, begin + r) : real(0);
                element(e, B_along_r, p, r);
                next_B[e] = begin + r < last ? load_B(begin + r, p) : real(0);
            }
        };
        look(first);
        for (long long begin = first; begin < last; begin += SUM) {
#pragma unroll
            for (int e = 0; e < EACH; ++e) {
                int p, r;
                element(e, A_along_r, p, r);
                A[r * STRIDE + p] = next_A[e];
                element(e, B_along_r, p, r);
                B[r * STRIDE + p] = next_B[e];
            }
            __syncthreads();
            if (begin + SUM < last) look(begin + SUM);
#pragma unroll 4
            for (int r = 0; r < SUM; ++r) {  // terms beyond the last are 0 · 0
                real a[MINE], b[COLUMNS];
#pragma unroll
                for (int p = 0; p < MINE; ++p) a[p] = A[r * STRIDE + first_row() + p];
#pragma unroll
                for (int q = 0; q < COLUMNS; ++q) b[q] = B[r * STRIDE + first_column() + q];
#pragma unroll
                for (int p = 0; p < MINE; ++p) {
#pragma unroll
                    for (int q = 0; q < COLUMNS; ++q) sums[p][q] = fma(a[p], b[q], sums[p][q]);
                }
            }
            __syncthreads();
        }
    }
};

template <typename real>
using Large = Tile<real, 64, 8, 16 / sizeof(real)>;
template <typename real>
using Small = Tile<real, 32, 4, 2>;

template <typename real>
__device__ __forceinline__ void multiply(const Product<real>& call) {
    using tile = Large<real>;
    const long long p0 = blockIdx.x * 64ll, q0 = blockIdx.y * 64ll;
    const long long first = blockIdx.z * call.slice;
    const long long last = first + call.slice < call.R ? first + call.slice : call.R;
    real* out = call.out + blockIdx.z * call.P * call.Q;
    constexpr int MINE = 8, COLUMNS = 16 / sizeof(real);
    real sums[MINE][COLUMNS];
#pragma unroll
    for (int p = 0; p < MINE; ++p) {
#pragma unroll
        for (int q = 0; q < COLUMNS; ++q) {
            const long long row = p0 + tile::first_row() + p, column = q0 + tile::first_column() + q;
            const bool inside = row < call.P && column < call.Q;
            real start = 0;
            if (inside && call.start != nullptr) start = call.start[column];
            if (inside && call.accumulates) start = out[row * call.Q + column];
            sums[p][q] = start;
        }
    }
    const auto load_A = [&](int p, long long r) {
        if (p0 + p >= call.P) return real(0);
        const long long entry = (p0 + p) * call.A_p + r * call.A_r;
        return call.A_more != nullptr ? call.A[entry] + call.A_more[entry] : call.A[entry];
    };
    const auto load_B = [&](long long r, int q) {
        if (q0 + q >= call.Q) return real(0);
        if (call.ones && q0 + q == call.Q - 1) return real(1);
        return call.B[r * call.B_r + (q0 + q) * call.B_q];
    };
    tile::add(load_A, call.A_r == 1, load_B, call.B_r == 1, first, last, sums);
#pragma unroll
    for (int p = 0; p < MINE; ++p) {
#pragma unroll
        for (int q = 0; q < COLUMNS; ++q) {
            const long long row = p0 + tile::first_row() + p, column = q0 + tile::first_column() + q;
            if (row < call.P && column < call.Q) out[row * call.Q + column] = sums[p][q];
        }
    }
}

// ---- any n: the whole grid for all samples

template <typename real>
struct AnyPlace {  // the tiles of 32 samples × 32 units, dealt to the blocks in turn
    long long B, n, across, tiles;

    __device__ __forceinline__ AnyPlace(const Steps<real>& call) : B(call.B), n(call.n) {
        across = (n + 31) / 32;
        tiles = (B + 31) / 32 * across;
    }

    // Call f(sample, unit, entry, row, column) for the entries of a tile that fall to this thread.
    template <class F>
    __device__ __forceinline__ void each(long long tile, F f) const {
        const long long sample = tile / across * 32 + Small<real>::first_row();
        const long long unit = tile % across * 32 + Small<real>::first_column();
#pragma unroll
        for (int p = 0; p < 4; ++p) {
#pragma unroll
            for (int q = 0; q < 2; ++q) {
                if (sample + p < B && unit + q < n) f((sample + p) * n + unit + q, p, q);
            }
        }
    }

    // Products of a tile's samples, rows of `vectors`, with its units' rows of M.
    __device__ __forceinline__ void product(long long tile, const real* vectors, const real* M,
                                            real (&sums)[4][2]) const {
        const long long p0 = tile / across * 32, q0 = tile % across * 32, B = this->B, n = this->n;
        const auto load_vector = [=](int p, long long k) {  // other blocks have just written it
            return p0 + p < B ? __ldcg(vectors + (p0 + p) * n + k) : real(0);
        };
        const auto load_M = [=](long long k, int q) { return q0 + q < n ? M[(q0 + q) * n + k] : real(0); };
        Small<real>::add(load_vector, true, load_M, true, 0, n, sums);
    }
};

template <typename real, bool GATED>
__device__ __forceinline__ void forward_any(const Steps<real>& call) {
    const AnyPlace<real> at(call);
    const real step_size = call.step_size;
    const long long Bn = call.B * call.n;
    for (long long t = call.first; t < call.last; ++t) {
        const real* now = t == call.first ? call.h_begin : call.vectors + (t - call.first) % 2 * Bn;
        real* then = call.vectors + (t + 1 - call.first) % 2 * Bn;
        const long long after = t + 1 - call.h_first, stashed = (t - call.s_first) * Bn;
        real* h = call.h != nullptr && after >= 0 && after % call.h_every == 0 ? call.h + after / call.h_every * Bn
                                                                              : nullptr;
        real* first_h = call.h != nullptr && t == call.first && t >= call.h_first && (t - call.h_first) % call.h_every == 0
                            ? call.h + (t - call.h_first) / call.h_every * Bn
                            : nullptr;
        const bool stashes = call.s != nullptr && t >= call.s_first;
        for (long long tile = blockIdx.x; tile < at.tiles; tile += gridDim.x) {
            real sums[4][2] = {};
            at.product(tile, now, call.M, sums);
            at.each(tile, [&](long long entry, int p, int q) {
                const long long input = (t - call.first) * Bn + entry;
                const real before = __ldcg(now + entry);
                const Unit<real> unit =
                    advance<GATED>(sums[p][q], call.u[input], GATED ? call.u_z[input] : real(0), before, step_size);
                __stcg(then + entry, unit.h);
                if (first_h != nullptr) first_h[entry] = before;
                if (h != nullptr) h[entry] = unit.h;
                if (t + 1 == call.last) call.h_end[entry] = unit.h;
                if (stashes) {
                    call.s[stashed + entry] = unit.s;
                    if (GATED) call.z[stashed + entry] = unit.z;
                }
            });
        }
        grid_barrier(call.counter);
    }
}

template <typename real, bool GATED>
__device__ __forceinline__ void backward_any(const Steps<real>& call) {
    const AnyPlace<real> at(call);
    const real step_size = call.step_size;
    const long long Bn = call.B * call.n;
    for (long long t = call.last - 1; t >= call.first; --t) {
        real* vectors = call.vectors + (call.last - 1 - t) % 2 * Bn;
        const long long stashed = (t - call.s_first) * Bn, now = (t - call.first) * Bn;
        for (long long tile = blockIdx.x; tile < at.tiles; tile += gridDim.x) {
            at.each(tile, [&](long long entry, int, int) {
                const real adjoint = call.adjoint[entry], s = call.s[stashed + entry];
                const real z = GATED ? call.z[stashed + entry] : real(0);
                const Unit<real> unit = retreat<GATED>(adjoint, s, z, step_size);
                call.terms[entry] = add_term<GATED>(adjoint, s, z, call.terms[entry]);
                __stcg(vectors + entry, GATED ? unit.delta + unit.delta_z : unit.delta);
                call.delta[now + entry] = unit.delta;
                if (GATED) call.delta_z[now + entry] = unit.delta_z;
            });
        }
        grid_barrier(call.counter);
        for (long long tile = blockIdx.x; tile < at.tiles; tile += gridDim.x) {
            real sums[4][2] = {};
            at.product(tile, vectors, call.M, sums);
            at.each(tile, [&](long long entry, int p, int q) {
                real adjoint = call.adjoint[entry] + sums[p][q];                // (B2) (GB3)
                if (call.g != nullptr) adjoint += call.g[t * Bn + entry];  // (B2) (GB3)
                call.adjoint[entry] = adjoint;
            });
        }
    }
}

// ---- what stands before and after the steps

template <typename real>
struct Matrices {
    const real* W;  // (n, n)
    real* M;        // (n, n), or its transpose
    real* G;        // (n, n) dL/dM
    real* dW;       // (n, n)
    long long n, unconstrained, transposed;
    real diffusion;
};

template <typename real>
__device__ __forceinline__ void recurrent_matrix(const Matrices<real>& call) {
    const long long n = call.n;
    for (long long e = blockIdx.x * 256ll + threadIdx.x; e < n * n; e += gridDim.x * 256ll) {
        const long long j = call.transposed ? e % n : e / n, k = call.transposed ? e / n : e % n;
        real entry = call.W[j * n + k];
        if (!call.unconstrained) entry = entry - call.W[k * n + j];
        call.M[e] = j == k ? entry - call.diffusion : entry;  // (F1)
    }
}

template <typename real>
__device__ __forceinline__ void matrix_gradient(const Matrices<real>& call) {
    const long long n = call.n;
    for (long long e = blockIdx.x * 256ll + threadIdx.x; e < n * n; e += gridDim.x * 256ll) {
        const long long j = e / n, k = e % n;
        call.dW[e] = call.unconstrained ? call.G[e] : call.G[e] - call.G[k * n + j];  // (B8)
    }
}

template <typename real>
struct Sums {
    const real* parts;  // (slices, count), count = rows of `across` entries
    real* totals;       // (count,), or without the last entry of every row if these go to `last`
    real* last;
    long long slices, count, across, stride;
    real sign;
};

// Add the slices of a sum to its total, the last first.
template <typename real>
__device__ __forceinline__ void add_slices(const Sums<real>& call) {
    for (long long e = blockIdx.x * 256ll + threadIdx.x; e < call.count; e += gridDim.x * 256ll) {
        const long long row = e / call.across, column = e % call.across;
        real* total = call.totals + e;
        if (call.last != nullptr) total = column == call.across - 1 ? call.last + row : call.totals + e - row;
        real sum = *total;
        for (long long z = call.slices - 1; z >= 0; --z) sum += call.parts[z * call.count + e];
        *total = sum;  // (B3) (B4) (B5) (GB4) (GB5) (GB6)
    }
}

// One number: the sum of `count` numbers, times the sign.
template <typename real>
__device__ __forceinline__ void sum_up(const Sums<real>& call) {
    real* shared = reinterpret_cast<real*>(shared_memory());
    const int thread = threadIdx.x;
    real total = 0;
    for (long long e = thread; e < call.count; e += 256) total += call.parts[e * call.stride];
    shared[thread] = total;
    __syncthreads();
    for (int half = 128; half > 0; half /= 2) {
        if (thread < half) shared[thread] += shared[thread + half];
        __syncthreads();
    }
    if (thread == 0) *call.totals = call.sign * shared[0];  // (B7) (B9) (GB8)
}

// tanh, or the sigmoid if the sign is negative, of `count` numbers: for the tests of both.
template <typename real>
__device__ __forceinline__ void activate(const Sums<real>& call) {
    for (long long e = blockIdx.x * 256ll + threadIdx.x; e < call.count; e += gridDim.x * 256ll) {
        call.totals[e] = call.sign < 0 ? sigmoid_of(call.parts[e]) : tanh_of(call.parts[e]);
    }
}
