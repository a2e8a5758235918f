// Both cells of the AntisymmetricRNN, forward and backward, as a program that `antisymrnn conform --cmd` can judge:
//
//     antisymrnn INPUT_DIR OUTPUT_DIR
//
// The tags are those of antisymrnn_ref/antisymmetric.py and gated.py. Row-major arrays, time first; T steps, B samples,
// n hidden, m inputs. For hosts that store numbers little end first.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

using Shape = std::vector<long>;

constexpr int done = 0, failed = 1, not_supported = 77;

std::string read_bytes(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path + ": cannot be read");
    return {std::istreambuf_iterator<char>(file), {}};
}

// As much of JSON as the manifest needs: no key occurs twice, no string holds a quote.
struct Manifest {
    std::string text;

    const char* after(const std::string& key) const {
        const auto at = text.find('"' + key + "\":");
        if (at == std::string::npos) throw std::runtime_error("manifest.json: no " + key);
        return text.c_str() + at + key.size() + 3;
    }
    double number(const std::string& key) const { return std::strtod(after(key), nullptr); }
    long integer(const std::string& key) const { return std::strtol(after(key), nullptr, 10); }
    bool flag(const std::string& key) const { return std::string(after(key), 6).find("true") != std::string::npos; }
    std::string word(const std::string& key) const {
        const std::string rest = after(key);
        const auto begin = rest.find('"') + 1;
        return rest.substr(begin, rest.find('"', begin) - begin);
    }
};

template <class R>
std::vector<R> read_array(const std::string& path, long size) {
    const std::string bytes = read_bytes(path);  // magic, version 1.0, length of the header (2 bytes), header, numbers
    if (bytes.size() < 10) throw std::runtime_error(path + ": no .npy file");
    const std::size_t begin = 10 + (unsigned char)bytes[8] + 256 * (unsigned char)bytes[9];
    if (bytes.size() != begin + size * sizeof(R)) throw std::runtime_error(path + ": another size than the manifest's");
    std::vector<R> array(size);
    if (size) std::memcpy(array.data(), bytes.data() + begin, size * sizeof(R));
    return array;
}

template <class R>
void write_array(const std::string& path, const Shape& shape, const std::vector<R>& array) {
    std::string header = sizeof(R) == 4 ? "{'descr': '<f4'" : "{'descr': '<f8'";
    header += ", 'fortran_order': False, 'shape': (";
    for (long size : shape) header += std::to_string(size) + ", ";
    header += "), }";
    header.resize((header.size() + 10) / 64 * 64 + 64 - 11, ' ');
    header += '\n';
    std::ofstream file(path, std::ios::binary);
    file << std::string("\x93NUMPY\x01\x00", 8) << char(header.size() % 256) << char(header.size() / 256) << header;
    file.write(reinterpret_cast<const char*>(array.data()), array.size() * sizeof(R));
    if (!file.flush()) throw std::runtime_error(path + ": cannot be written");
}

template <class R>
void solve(const Manifest& manifest, const std::string& input, const std::string& output) {
    using Array = std::vector<R>;
    const long T = manifest.integer("T"), B = manifest.integer("B");
    const long n = manifest.integer("n"), m = manifest.integer("m");
    const long keep_every = manifest.integer("keep_every");
    const R step_size = R(manifest.number("step_size")), diffusion = R(manifest.number("diffusion"));
    const bool gated = manifest.word("cell") == "gated", unconstrained = manifest.flag("unconstrained");
    const auto given = [&](const char* name, long size) { return read_array<R>(input + "/" + name + ".npy", size); };
    const Array W = given("W", n * n), V = given("V", n * m), b = given("b", n), x = given("x", T * B * m);
    const Array V_z = gated ? given("V_z", n * m) : Array(), b_z = gated ? given("b_z", n) : Array();

    Array M(n * n);
    for (long i = 0; i < n; i++)
        for (long j = 0; j < n; j++)
            M[i * n + j] = (unconstrained ? W[i * n + j] : W[i * n + j] - W[j * n + i])  // (F1)
                           - (i == j ? diffusion : R(0));

    Array h = given("h0", B * n), s(T * B * n), z(T * B * n, R(1));
    h.resize((T + 1) * B * n);
    for (long row = 0; row < T * B; row++) {  // step row / B of sample row % B; the state before it, and after it
        const R *h_t = &h[row * n], *x_t = &x[row * m];
        R* next = &h[(row + B) * n];
        for (long i = 0; i < n; i++) {
            R product = 0, u = 0, u_z = 0;
            for (long j = 0; j < n; j++) product += M[i * n + j] * h_t[j];
            for (long k = 0; k < m; k++) u += V[i * m + k] * x_t[k];
            s[row * n + i] = std::tanh(product + u + b[i]);  // (F2) (F3), (GF1) (GF2)
            if (gated) {
                for (long k = 0; k < m; k++) u_z += V_z[i * m + k] * x_t[k];
                z[row * n + i] = 1 / (1 + std::exp(-(product + u_z + b_z[i])));  // (GF3) (GF4)
            }
            next[i] = h_t[i] + step_size * z[row * n + i] * s[row * n + i];  // (F4), (GF5)
        }
    }
    Array kept;
    long count = 0;
    for (long t = 0; t <= T; t++) {
        if (t % keep_every && t < T) continue;
        kept.insert(kept.end(), h.begin() + t * B * n, h.begin() + (t + 1) * B * n);
        count++;
    }
    const auto put = [&](const std::string& name, const Shape& shape, const Array& array) {
        write_array(output + "/" + name + ".npy", shape, array);
    };
    put("h", {count, B, n}, kept);
    if (manifest.word("pass") == "forward") return;

    const bool every = manifest.flag("g_on_every_state");
    const Array g = given("g", (every ? T + 1 : 1) * B * n);
    Array adjoint(g.end() - B * n, g.end());
    Array G(n * n), dV(n * m), db(n), dV_z(n * m), db_z(n), dx(T * B * m), dstep_size(1), ddiffusion(1);
    Array delta(n), delta_z(n);
    for (long row = T * B - 1; row >= 0; row--) {
        const R *h_t = &h[row * n], *x_t = &x[row * m], *s_t = &s[row * n], *z_t = &z[row * n];
        R* adjoint_t = &adjoint[row % B * n];
        for (long i = 0; i < n; i++) {
            delta[i] = step_size * z_t[i] * (1 - s_t[i] * s_t[i]) * adjoint_t[i];                    // (B1), (GB1)
            delta_z[i] = gated ? step_size * s_t[i] * z_t[i] * (1 - z_t[i]) * adjoint_t[i] : R(0);  // (GB2)
            dstep_size[0] += adjoint_t[i] * z_t[i] * s_t[i];                                        // (B7), (GB8)
        }
        for (long i = 0; i < n; i++) {
            for (long j = 0; j < n; j++) G[i * n + j] += (delta[i] + delta_z[i]) * h_t[j];  // (B3), (GB4)
            for (long k = 0; k < m; k++) dV[i * m + k] += delta[i] * x_t[k];                // (B4), (GB5)
            for (long k = 0; k < m; k++) dx[row * m + k] += V[i * m + k] * delta[i];        // (B6), (GB7)
            db[i] += delta[i];                                                              // (B5), (GB6)
            if (!gated) continue;
            for (long k = 0; k < m; k++) dV_z[i * m + k] += delta_z[i] * x_t[k];       // (GB5)
            for (long k = 0; k < m; k++) dx[row * m + k] += V_z[i * m + k] * delta_z[i];  // (GB7)
            db_z[i] += delta_z[i];                                                     // (GB6)
        }
        for (long j = 0; j < n; j++) {
            R through = 0;
            for (long i = 0; i < n; i++) through += M[i * n + j] * (delta[i] + delta_z[i]);
            adjoint_t[j] += through + (every ? g[row * n + j] : R(0));  // (B2), (GB3)
        }
    }
    Array dW = G;
    for (long i = 0; i < n; i++) {
        for (long j = 0; j < n && !unconstrained; j++) dW[i * n + j] = G[i * n + j] - G[j * n + i];  // (B8)
        ddiffusion[0] -= G[i * n + i];                                                              // (B9)
    }
    put("dW", {n, n}, dW), put("dV", {n, m}, dV), put("db", {n}, db);
    put("dx", {T, B, m}, dx), put("dh0", {B, n}, adjoint);
    if (gated) put("dV_z", {n, m}, dV_z), put("db_z", {n}, db_z);
    put("dstep_size", {}, dstep_size), put("ddiffusion", {}, ddiffusion);
}

int main(int count, char** arguments) try {
    if (count != 3) throw std::runtime_error("expected INPUT_DIR OUTPUT_DIR");
    const Manifest manifest{read_bytes(std::string(arguments[1]) + "/manifest.json")};
    if (manifest.integer("protocol") != 1) {
        std::fprintf(stderr, "only protocol 1 is supported\n");
        return not_supported;
    }
    const bool narrow = manifest.word("dtype") == "float32";
    (narrow ? solve<float> : solve<double>)(manifest, arguments[1], arguments[2]);
    return done;
} catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return failed;
}
